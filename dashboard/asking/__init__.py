"""What a page asks the index: which versions count, which clips are meant, and how they are laid out."""
