"""Shows the answers to questions over the records of a file, as a person sees them.

    show.py RECORDS QUESTION...
"""

import sys

import ask


def main():
    database = ask.Database()
    database.load(sys.argv[1])
    asked = ask.questions()
    print("\n\n".join(f"{name}\n{database.text(asked[name]).rstrip()}" for name in sys.argv[2:]))


main()
