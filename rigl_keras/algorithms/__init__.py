"""Which connections an update drops, grows or keeps, and when."""
