"""Training from plain WebDataset tars: clips read and checked, streamed, laid into packs."""
