"""The file that most tests here are about."""

from tests.support.files import houses_file as houses_file
from tests.support.files import people_file as people_file
