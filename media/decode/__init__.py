"""From bytes to pictures: what a file is (probe), its packets, its frames upright and in square pixels."""
