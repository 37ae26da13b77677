"""ReDit (arXiv 2506.18631): zero-mean noise on the training reward."""
