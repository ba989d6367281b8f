"""What every stage stands on: records, storage, media, configuration, Ray session, telemetry, errors, command line."""
