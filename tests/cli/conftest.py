"""The file that most tests here are about."""

from tests.support.files import people_file as people_file
