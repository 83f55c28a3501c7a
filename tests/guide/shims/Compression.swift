// The parts of Compression that the guide uses, over zlib, for Linux.
import CZlib
import Foundation

public enum FilterOperation { case compress, decompress }
public enum Algorithm { case zlib }
public enum FilterError: Error { case invalidState, invalidData }

/// Inflates a raw deflate stream that is written to it.
public final class OutputFilter {
    private var stream = z_stream()
    private var hasEnded = false
    private let output: (Data?) throws -> Void
    private var buffer = [UInt8](repeating: 0, count: 65536)

    public init(_ operation: FilterOperation, using: Algorithm, writingTo output: @escaping (Data?) throws -> Void) throws {
        self.output = output
        guard operation == .decompress, inflateInit2_(&stream, -15, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size)) == Z_OK else {
            throw FilterError.invalidState
        }
    }

    deinit { inflateEnd(&stream) }

    public func write(_ data: Data?) throws {
        guard let data else { return }
        var input = [UInt8](data)
        try input.withUnsafeMutableBufferPointer { input in
            stream.next_in = input.baseAddress
            stream.avail_in = UInt32(input.count)
            while stream.avail_in > 0 && !hasEnded {
                let (result, count) = buffer.withUnsafeMutableBufferPointer { buffer in
                    stream.next_out = buffer.baseAddress
                    stream.avail_out = UInt32(buffer.count)
                    return (inflate(&stream, Z_NO_FLUSH), buffer.count - Int(stream.avail_out))
                }
                guard result == Z_OK || result == Z_STREAM_END else { throw FilterError.invalidData }
                hasEnded = result == Z_STREAM_END
                if count > 0 { try output(Data(buffer[..<count])) }
            }
        }
    }

    public func finalize() throws {
        guard hasEnded else { throw FilterError.invalidData }
        try output(nil)
    }
}
