"""What a user runs first: command lines, a web page, small weights."""
