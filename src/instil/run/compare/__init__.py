"""`instil compare`: several ways to come by one student."""
