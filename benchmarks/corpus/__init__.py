"""Post-grad graphs of public modelling code: what is in it (registry) and how it is captured."""
