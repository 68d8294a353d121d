"""What a run reads of the manifest: which clips, where their bytes lie, what is held out."""
