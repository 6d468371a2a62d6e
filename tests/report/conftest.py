"""The files that tests of pages are about."""

from tests.support.files import houses_file as houses_file
