"""The steps of a training: rates and averages, gradients of several processes, logs, one run at a time."""
