"""Checks of chapter 19."""

from __future__ import annotations

import math

from tutorials.exercises.checking import Properties, called, close, expect, registrar, shown

PROPERTIES: Properties = {}
prop = registrar(PROPERTIES)


@prop(
    "floor_and_price",
    says="equal measurements are all floor",
    usually="the larger number of labels is taken for the floor's, or floor and price are exchanged",
)
def all_floor(answer):
    found = answer(100, 0.5, 1000, 0.5)
    expect(close(found, (0.5, 0.0)), f"{called(answer, 100, 0.5, 1000, 0.5)} is {shown(found)}")


@prop(
    "floor_and_price",
    says="the two numbers give back both measurements",
    usually="a straight line in the labels, or in their logarithm, was put through the points",
)
def both_points(answer):
    floor, price = answer(100, 0.7, 400, 0.4)
    expect(
        close(floor + price / 100, 0.7) and close(floor + price / 400, 0.4),
        f"{called(answer, 100, 0.7, 400, 0.4)} is {shown((floor, price))}: with 100 labels "
        f"{shown(floor + price / 100)}, with 400 {shown(floor + price / 400)}",
    )


@prop(
    "floor_and_price",
    says="the order of the measurements does not matter",
    usually="a sign is turned where the second has fewer labels",
)
def either_order(answer):
    found, turned = answer(100, 0.7, 400, 0.4), answer(400, 0.4, 100, 0.7)
    expect(close(found, turned), f"{shown(found)}, and in the other order {shown(turned)}")


@prop(
    "labels_for",
    says="with so many labels the shortfall is what was wanted",
    usually="the floor is forgotten, or added where it must be taken off",
)
def wanted_is_reached(answer):
    for floor, price, wanted in ((0.0, 50.0, 0.1), (0.2, 30.0, 0.5)):
        found = answer(floor, price, wanted)
        expect(
            found > 0 and close(floor + price / found, wanted),
            f"{called(answer, floor, price, wanted)} is {shown(found)}",
        )


@prop(
    "labels_for",
    says="nothing at or below the floor can be bought",
    usually="a negative number, or an error of a division by zero",
)
def below_the_floor(answer):
    for wanted in (0.1, 0.2):
        found = answer(0.2, 30.0, wanted)
        expect(found == math.inf, f"{called(answer, 0.2, 30.0, wanted)} is {shown(found)}")
