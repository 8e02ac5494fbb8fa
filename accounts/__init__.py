"""How people sign in: the sign-in page, one-time links, the first administrator of a new installation."""
