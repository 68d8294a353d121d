"""From a pack to a velocity and a loss: noise, attention, the diffusion transformer."""
