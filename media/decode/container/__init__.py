"""What a file tells before a frame is decoded: marks, packets, times, edits, and what is joined behind."""
