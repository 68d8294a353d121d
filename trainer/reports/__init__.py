"""What a run tells: logs, progress, efficiency, validation, sheets of samples."""
