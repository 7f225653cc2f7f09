"""Results that others published: the cases, their citations, and the reader of files like them."""
