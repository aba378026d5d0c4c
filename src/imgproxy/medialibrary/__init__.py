"""The Media Library API: a typed client, and in `server` a library to develop and test against."""
