"""Cards of models and corpora, in the form that the Hugging Face hub reads."""
