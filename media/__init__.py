"""Videos and images of any shape: access, probe, decode, measure, write. Imports neither torch nor ray."""
