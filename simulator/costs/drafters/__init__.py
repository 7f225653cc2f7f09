"""How methods of speculation draft: one file each, which says what its passes read and how wide verification is."""
