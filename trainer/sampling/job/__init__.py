"""What `rushes sample` does: from options and files to a scene, and from samples to files."""
