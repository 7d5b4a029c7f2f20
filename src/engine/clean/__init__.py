"""Between source and model: stages that clean rows and make features, fitted online and merged over ranks."""
