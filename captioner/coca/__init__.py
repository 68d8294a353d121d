"""The project's own captioner: a video CoCa trained in the stages of DALL-E 3's, a base and two forks of it."""
