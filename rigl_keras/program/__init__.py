"""What the training program is made of: settings, runs, files."""
