"""``method="auto"``: the best way this package knows to spend a question.

The parts, in the order in which a fit uses them:

* :mod:`evidence`: what an answer says about the clusters of the texts it is about, as a likelihood;
* :mod:`checks`: is the oracle of use at all, how often is it right, did asking help;
* :mod:`pieces`: questions about whole clusters: which are one, which are two;
* :mod:`classifier`: how answers about some texts become clusters of all texts;
* :mod:`reassign`: questions about single texts;
* :mod:`planning`: who is asked next, and how large a question is;
* :mod:`fit`: one fit, step by step.

Everything here works on *rows*: the distinct texts of a corpus that are not empty. Only :mod:`asking` knows their
positions in the user's list.
"""
