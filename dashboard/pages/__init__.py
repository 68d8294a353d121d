"""The pages: each adds its routes to the app. Every page has a twin in JSON at its address plus `.json`."""
