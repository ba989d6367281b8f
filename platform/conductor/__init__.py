"""The umbrella command: it sequences the public entry points of the stages and adds nothing of its own to them."""
