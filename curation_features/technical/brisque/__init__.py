"""BRISQUE: no-reference quality from natural scene statistics (Mittal, Moorthy and Bovik, 2012), equal to PIQ."""
