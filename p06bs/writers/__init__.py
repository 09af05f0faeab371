"""Writers of files, suitcase-shaped: documents in, files out."""
