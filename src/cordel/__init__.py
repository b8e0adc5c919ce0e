"""cordel: language models for Brazilian Portuguese, from scratch and adapted, with their costs."""
