"""What lowland costs, against its peers and against the floor. See README.md."""
