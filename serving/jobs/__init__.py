"""Jobs that outlive every process: the store's protocol, its SQLite backend, and the one actor that writes it."""
