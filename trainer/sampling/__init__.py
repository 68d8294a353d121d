"""From a prompt to a video: a trained model, a canvas, a solver."""
