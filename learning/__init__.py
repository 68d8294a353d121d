"""What trainings share: processes, graceful shutdown, saving and reading state, step logs, Muon."""
