"""What the library does with others of its kind: one file for each, loaded when it is used."""
