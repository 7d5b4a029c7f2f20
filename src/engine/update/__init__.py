"""What happens to an Update between ranks."""
