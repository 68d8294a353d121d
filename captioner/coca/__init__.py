"""The project's own captioner: a video CoCa trained as DALL-E 3's was, a base and two forks of it."""
