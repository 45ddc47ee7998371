"""Tables, figures and pages of saved runs."""
