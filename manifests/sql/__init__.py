"""SQL over the tables of a dataset, and over clips to choose among them."""
