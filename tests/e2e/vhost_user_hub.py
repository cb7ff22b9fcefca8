#!/usr/bin/env python3
"""A network of two machines: a vhost-user back end for each, whose frames go to the other.

Usage: vhost_user_hub.py SOCKET SOCKET

As plain as the protocol permits: no checksums or segments to finish, no mergeable buffers, every
frame copied twice. Ends when a machine goes."""
import mmap
import os
import selectors
import socket
import struct
import sys

VERSION_1, PROTOCOL_FEATURES = 1 << 32, 1 << 30
REPLY_ACK = 1 << 3
NEED_REPLY, REPLY = 8, 4
GET_FEATURES, SET_FEATURES, SET_MEM_TABLE, SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE = (
    1, 2, 5, 8, 9, 10)
GET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL, GET_PROTOCOL_FEATURES = 11, 12, 13, 15
HEADER = 12  # virtio_net_hdr
NEXT, WRITE = 1, 2


class Ring:
    def __init__(self):
        self.size = self.next = self.used_index = 0
        self.descriptors = self.available = self.used = None
        self.kick = self.call = None


class Machine:
    """One front end, and what it has told."""

    def __init__(self, path, selector):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        self.listener, self.selector = listener, selector
        self.regions, self.rings = [], {0: Ring(), 1: Ring()}
        self.other = self.client = None
        selector.register(listener, selectors.EVENT_READ, self.accept)

    def accept(self):
        self.selector.unregister(self.listener)
        self.client, _ = self.listener.accept()
        self.selector.register(self.client, selectors.EVENT_READ, self.message)

    def message(self):
        header, descriptors, _, _ = socket.recv_fds(self.client, 12, 16)
        if not header:
            sys.exit(0)
        request, flags, size = struct.unpack("III", header)
        payload = self.client.recv(size, socket.MSG_WAITALL) if size else b""
        answer = self.handle(request, payload, descriptors)
        if answer is None and flags & NEED_REPLY:
            answer = struct.pack("Q", 0)
        if answer is not None:
            self.client.sendall(struct.pack("III", request, 1 | REPLY, len(answer)) + answer)

    def handle(self, request, payload, descriptors):
        if request == GET_FEATURES:
            return struct.pack("Q", VERSION_1 | PROTOCOL_FEATURES)
        if request == GET_PROTOCOL_FEATURES:
            return struct.pack("Q", REPLY_ACK)
        if request == SET_MEM_TABLE:
            count, _ = struct.unpack_from("II", payload)
            self.regions = []
            for i in range(count):
                gpa, size, user, offset = struct.unpack_from("QQQQ", payload, 8 + 32 * i)
                self.regions.append((gpa, size, user, offset,
                                     mmap.mmap(descriptors[i], size + offset)))
        elif request in (SET_VRING_NUM, SET_VRING_BASE, GET_VRING_BASE):
            index, value = struct.unpack("II", payload)
            ring = self.rings[index]
            if request == SET_VRING_NUM:
                ring.size = value
            elif request == SET_VRING_BASE:
                ring.next = ring.used_index = value
            else:
                self.selector.unregister(ring.kick)
                os.close(ring.kick)
                ring.kick = None
                return struct.pack("II", index, ring.next)
        elif request == SET_VRING_ADDR:
            index, _, descriptors_at, used, available, _ = struct.unpack("IIQQQQ", payload)
            ring = self.rings[index]
            ring.descriptors, ring.used, ring.available = (
                self.find(at, 2) for at in (descriptors_at, used, available))
        elif request == SET_VRING_CALL:
            self.rings[payload[0]].call = descriptors[0]
        elif request == SET_VRING_KICK:
            self.rings[payload[0]].kick = descriptors[0]
            self.selector.register(descriptors[0], selectors.EVENT_READ,
                                   lambda: self.kicked(payload[0]))
        return None

    def find(self, address, by):
        """Memory and the place in it, of a guest's address (by 0) or the front end's (by 2)."""
        for region in self.regions:
            if region[by] <= address < region[by] + region[1]:
                return region[4], region[3] + address - region[by]
        raise ValueError(hex(address))

    def pop(self, ring):
        memory, at = ring.available
        if struct.unpack_from("H", memory, at + 2)[0] == ring.next:
            return None
        head = struct.unpack_from("H", memory, at + 4 + 2 * (ring.next % ring.size))[0]
        ring.next = (ring.next + 1) & 0xffff
        parts, index, flags = [], head, NEXT
        while flags & NEXT:
            address, length, flags, following = struct.unpack_from(
                "QIHH", ring.descriptors[0], ring.descriptors[1] + 16 * index)
            parts.append((*self.find(address, 0), length))
            index = following
        return head, parts

    @staticmethod
    def push(ring, head, written):
        memory, at = ring.used
        struct.pack_into("II", memory, at + 4 + 8 * (ring.used_index % ring.size), head, written)
        ring.used_index = (ring.used_index + 1) & 0xffff
        struct.pack_into("H", memory, at + 2, ring.used_index)

    def kicked(self, index):
        os.read(self.rings[index].kick, 8)
        if index == 1:
            self.send()
        elif self.other.rings[1].kick is not None:
            self.other.send()

    def send(self):
        """What this machine has to send, as far as the other one has buffers."""
        ring, sent = self.rings[1], False
        while self.other.can_receive():
            chain = self.pop(ring)
            if chain is None:
                break
            head, parts = chain
            data = b"".join(memory[at:at + length] for memory, at, length in parts)
            self.other.receive(data[HEADER:])
            self.push(ring, head, 0)
            sent = True
        if sent:
            os.write(ring.call, struct.pack("Q", 1))
            os.write(self.other.rings[0].call, struct.pack("Q", 1))

    def can_receive(self):
        ring = self.rings[0]
        if ring.kick is None:
            return False
        memory, at = ring.available
        return struct.unpack_from("H", memory, at + 2)[0] != ring.next

    def receive(self, frame):
        head, parts = self.pop(self.rings[0])
        data = struct.pack("BBHHHHH", 0, 0, 0, 0, 0, 0, 1) + frame
        written = 0
        for memory, at, length in parts:
            piece = data[written:written + length]
            memory[at:at + len(piece)] = piece
            written += len(piece)
        self.push(self.rings[0], head, written)


def main():
    selector = selectors.DefaultSelector()
    machines = [Machine(path, selector) for path in sys.argv[1:3]]
    machines[0].other, machines[1].other = machines[1], machines[0]
    while True:
        for key, _ in selector.select():
            key.data()


main()
