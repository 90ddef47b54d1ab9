"""What happens to a sample between the file and the batch."""
