"""What samples show: read back, compared with their prompts, with true renders and with round trips."""
