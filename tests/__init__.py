"""Tests of clusterfutures; a package, so that what runs in worker processes can be imported there."""
