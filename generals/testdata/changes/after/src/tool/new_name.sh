#!/bin/sh
echo step 0 of the old tool
echo step 1 of the old tool
echo step 2 of the old tool
echo step 3 of the old tool
echo step 4 of the old tool
echo step 5 of the old tool
echo step 6 of the old tool
echo step 7 of the old tool
echo step 8 of the old tool
echo step 9 of the old tool
echo step 10 of the old tool
echo step 11 of the old tool
