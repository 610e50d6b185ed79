"""Does. The only place with torch and Ray: model, engine, replicas, governor, calibration."""
