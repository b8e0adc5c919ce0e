"""Talk to every trained model: a page on this machine, and the same in a terminal. No stage."""
