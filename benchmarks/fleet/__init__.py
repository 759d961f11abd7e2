"""A fleet of processes over one quota: is it kept, is it used, and who gets how much of it?"""
