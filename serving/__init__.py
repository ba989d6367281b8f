"""Weights become an HTTP service that makes videos and loses no job: the OpenAI Videos wire format on Ray Serve."""
