"""What can be asked: a reader, a metric and the length of an answer for each data set."""
