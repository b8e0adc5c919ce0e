"""What cordel is measured against, where no package of it is installed."""
