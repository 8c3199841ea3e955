"""What users write: the nouns, frozen."""
